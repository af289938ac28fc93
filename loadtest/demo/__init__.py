"""The demonstration: a model server, the firewall in front of it, and traffic of every kind.

Everything is real: the processes, the sockets, the fitted bundle, the audit log. What is expected
of each kind of traffic is written in ``expectations``, and a failure of any is a failure of all.
"""
