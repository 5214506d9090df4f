"""INFERENCE at decoding time, and the proposals that training draws from."""
