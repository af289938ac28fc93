"""The firewall rehearsed: the pipeline as it serves, on a clock that is set, among actors."""
