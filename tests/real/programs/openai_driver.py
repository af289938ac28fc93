"""The ``openai`` library: ``{"base", "call": "chat", "stream", "embeddings" or "files", …}``."""

import openai
from calls import answer_calls


def call(base, call, **arguments):
    client = openai.OpenAI(base_url=base, api_key="none")
    if call == "files":
        return client.files.list().to_dict()
    if call == "embeddings":
        answer = client.embeddings.create(encoding_format="float", **arguments)
        return [item.embedding for item in answer.data]
    if call == "chat":
        answer = client.chat.completions.create(**arguments)
        return {"content": answer.choices[0].message.content, "usage": answer.usage.to_dict()}
    pieces = client.chat.completions.create(stream=True, **arguments)
    return [piece.choices[0].delta.content for piece in pieces if piece.choices]


answer_calls(call, lambda fault: getattr(fault, "status_code", None))
