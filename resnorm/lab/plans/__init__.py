"""What the plans of the studies share: the sizes of their networks and data, and the checks of their parameters."""
