from klvi.metrics.measurement import Measurement, Unavailable


def test_a_measurement_is_what_summary_json_holds():
    found = Measurement(0.5, 0.4, 0.6, 512)
    assert found.to_json() == {"value": 0.5, "low": 0.4, "high": 0.6, "n": 512}


def test_what_is_unavailable_says_why():
    assert Unavailable("too few").to_json() == {"value": None, "reason": "too few"}
