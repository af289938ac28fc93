"""LitServe's OpenAI servers, which echo: ``litserve_openai.py PORT``."""

import sys

import litserve
from litserve.specs.openai import OpenAISpec
from litserve.specs.openai_embedding import OpenAIEmbeddingSpec


class Chat(litserve.LitAPI):
    def setup(self, device):
        pass

    def predict(self, request):
        words = str(request.messages[-1].content).split(" ")
        for word in words:
            yield {
                "role": "assistant",
                "content": word + " ",
                "prompt_tokens": len(words),
                "completion_tokens": 1,
                "total_tokens": len(words) + 1,
            }


class Embeddings(litserve.LitAPI):
    def setup(self, device):
        pass

    def predict(self, texts):
        texts = [texts] if isinstance(texts, str) else texts
        return [[len(text) / 16, float(sum(text.encode()) % 97), 0.5] for text in texts]

    def encode_response(self, embeddings):
        return {"embeddings": embeddings}


if __name__ == "__main__":
    server = litserve.LitServer(
        [Chat(spec=OpenAISpec()), Embeddings(spec=OpenAIEmbeddingSpec())], accelerator="cpu"
    )
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
