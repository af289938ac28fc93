"""LitServe with the linear model: ``litserve_linear.py PORT``."""

import sys

import litserve
from linear import probabilities


class Linear(litserve.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request):
        return request["rows"]

    def predict(self, rows):
        return probabilities(rows)

    def encode_response(self, answer):
        return {"probabilities": answer.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Linear(), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
