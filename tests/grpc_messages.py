"""The messages of the Open Inference Protocol over gRPC, read and written by Google's own library:
what the firewall's own reader is held against. Their definition is the protocol's.
"""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_KINDS = {
    "bool": 8,
    "int32": 5,
    "int64": 3,
    "uint32": 13,
    "uint64": 4,
    "float": 2,
    "double": 1,
    "string": 9,
    "bytes": 12,
}

# A field a line: its number, its name, its type; "*" repeats, "%" is a map from strings.
_MESSAGES = {
    "InferParameter": "1 bool_param bool|2 int64_param int64|3 string_param string"
    "|4 double_param double|5 uint64_param uint64",
    "InferTensorContents": "1 bool_contents *bool|2 int_contents *int32|3 int64_contents *int64"
    "|4 uint_contents *uint32|5 uint64_contents *uint64|6 fp32_contents *float"
    "|7 fp64_contents *double|8 bytes_contents *bytes",
    "InferInputTensor": "1 name string|2 datatype string|3 shape *int64"
    "|4 parameters %InferParameter|5 contents InferTensorContents",
    "InferRequestedOutputTensor": "1 name string|2 parameters %InferParameter",
    "ModelInferRequest": "1 model_name string|2 model_version string|3 id string"
    "|4 parameters %InferParameter|5 inputs *InferInputTensor"
    "|6 outputs *InferRequestedOutputTensor|7 raw_input_contents *bytes",
    "InferOutputTensor": "1 name string|2 datatype string|3 shape *int64"
    "|4 parameters %InferParameter|5 contents InferTensorContents",
    "ModelInferResponse": "1 model_name string|2 model_version string|3 id string"
    "|4 parameters %InferParameter|5 outputs *InferOutputTensor|6 raw_output_contents *bytes",
    "ModelStreamInferResponse": "1 error_message string|2 infer_response ModelInferResponse",
    "TensorMetadata": "1 name string|2 datatype string|3 shape *int64",
    "ModelMetadataResponse": "1 name string|2 versions *string|3 platform string"
    "|4 inputs *TensorMetadata|5 outputs *TensorMetadata",
    "ModelReadyRequest": "1 name string|2 version string",
    "ModelReadyResponse": "1 ready bool",
    "ServerLiveResponse": "1 live bool",
    "Duration": "1 seconds int64",
    "RetryInfo": "1 retry_delay Duration",
    "Any": "1 type_url string|2 value bytes",
    "Status": "1 code int32|2 message string|3 details *Any",
}


def _field(message, line):
    number, name, kind = line.split()
    field = message.field.add(name=name, number=int(number), label=1)
    if kind[0] in "*%":
        field.label = 3
    if kind[0] == "%":
        entry = message.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        _field(entry, "1 key string")
        _field(entry, f"2 value {kind[1:]}")
        kind = f"{message.name}.{entry.name}"
    kind = kind.lstrip("*")
    if kind in _KINDS:
        field.type = _KINDS[kind]
    else:
        field.type, field.type_name = 11, f".inference.{kind}"


def _classes():
    file = descriptor_pb2.FileDescriptorProto(
        name="open_inference.proto", package="inference", syntax="proto3"
    )
    for name, lines in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for line in lines.split("|"):
            _field(message, line)
    (choices,) = (one for one in file.message_type if one.name == "InferParameter")
    choices.oneof_decl.add(name="parameter_choice")
    for field in choices.field:
        field.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"inference.{name}"))
        for name in _MESSAGES
    }


MESSAGES = _classes()
ModelInferRequest = MESSAGES["ModelInferRequest"]
ModelInferResponse = MESSAGES["ModelInferResponse"]
ModelMetadataResponse = MESSAGES["ModelMetadataResponse"]
ModelStreamInferResponse = MESSAGES["ModelStreamInferResponse"]

TYPED = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""The field of typed contents of each datatype: FP16 has none."""


def written(message):
    """The bytes of a message."""
    return message.SerializeToString(deterministic=True)
