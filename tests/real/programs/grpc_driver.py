"""gRPC calls as no honest client makes them: ``{"target", "method", "request"}``, where the request
is the message in protobuf's JSON form, with the classes of ``tritonclient``.
"""

import grpc
from calls import answer_calls
from google.protobuf import json_format
from tritonclient.grpc import service_pb2, service_pb2_grpc

channels = {}


def call(target, method, request, timeout=20):
    if target not in channels:
        channels[target] = grpc.insecure_channel(target)
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channels[target])
    message = json_format.ParseDict(request, getattr(service_pb2, f"{method}Request")())
    answer = getattr(stub, method)(message, timeout=timeout)
    return json_format.MessageToDict(answer, preserving_proto_field_name=True)


answer_calls(call, lambda fault: fault.code().name if hasattr(fault, "code") else None)
