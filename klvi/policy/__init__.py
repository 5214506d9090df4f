"""The prior, the policy (prior and adapter), how they are loaded, and what checks them."""
