"""Between messages and bytes: JSON outside, attrs classes, dataclasses, Pydantic models and JSON values inside.

    encode(message)              the JSON and the wire name of its type
    decode_value(data, type)     the value of the JSON, as that type
    MessageDecoder               converts the payload of a delivery into the argument of a handler
    KeywordDecoder               converts it into keyword arguments

JSON is never coerced. A number is an int only if it is one; missing and unknown fields are errors; every error names
the path to the field. Only the fields of a foreign stream entry, which are all strings, are parsed as the type that the
handler declares ("1" as the int 1, "true" as a bool, JSON for the rest). How strict a Pydantic model is, its own
configuration says.

JSON only, never pickle: any client that reaches the broker may have written the data.

    text        JSON and its errors
    kinds       what a class is to the codec, and its fields
    values      values to JSON and back
    conversion  JSON values to typed ones and back: the one module that imports cattrs, when the first value needs it
    payloads    payloads of deliveries to arguments of handlers
    shapes      what JSON a type wants, as JSON, for programs that do not have the type
"""

from actorwork.codec.kinds import field_types, is_message_class, is_model, is_record, wire_name
from actorwork.codec.payloads import KeywordDecoder, MessageDecoder, Parameter, Payload, fields_as_json
from actorwork.codec.text import dumps, loads
from actorwork.codec.values import (
    check_type,
    decode_value,
    encode,
    encode_as,
    encode_result,
    encode_value,
    encoder_of,
    structure,
)

__all__ = [
    "KeywordDecoder",
    "MessageDecoder",
    "Parameter",
    "Payload",
    "check_type",
    "decode_value",
    "dumps",
    "encode",
    "encode_as",
    "encode_result",
    "encode_value",
    "encoder_of",
    "field_types",
    "fields_as_json",
    "is_message_class",
    "is_model",
    "is_record",
    "loads",
    "structure",
    "wire_name",
]
