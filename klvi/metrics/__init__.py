"""Estimators with intervals, text statistics, and exact enumeration: tensors in, numbers out."""
