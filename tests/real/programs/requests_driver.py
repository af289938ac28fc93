"""``requests``, as a user of a server without a client writes it: ``{"url", "json"}``, or a body in
base64 with a ``content_type``, or as a form's file of that name (``field``).
"""

import base64

import requests
from calls import answer_calls


def call(url, method="POST", json=None, body=None, content_type=None, field=None):
    if body is None:
        answer = requests.request(method, url, json=json)
    elif field is not None:
        files = {field: ("file", base64.b64decode(body), content_type)}
        answer = requests.request(method, url, files=files)
    else:
        headers = {"Content-Type": content_type} if content_type else None
        answer = requests.request(method, url, data=base64.b64decode(body), headers=headers)
    answer.raise_for_status()
    return answer.json()


def status(fault):
    response = getattr(fault, "response", None)
    return response.status_code if response is not None else None


answer_calls(call, status)
