"""INFERENCE at decoding time: where samples come from."""
