"""Load, peers, and the demonstration: everything that drives the firewall from outside."""
