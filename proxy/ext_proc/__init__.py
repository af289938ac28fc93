"""Envoy's external processing (``envoy.service.ext_proc.v3``): Envoy carries the request and the
answer, and asks here, over one gRPC stream an exchange, what is to become of them.
"""
