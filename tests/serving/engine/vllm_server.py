"""A server that speaks vLLM's protocol over a GPT of ours, and follows the link as
deploy/vllm/follow.sh does."""

import http.server
import json
import threading
import time

import torch

from devopsgpt_model.checkpoint import load_checkpoint
from devopsgpt_model.generate import stream_ids


class VllmServer:
    """What vLLM answers to GET /v1/models and to a streamed POST /v1/completions with token ids."""

    def __init__(self, cache):
        self.cache, self.delay_s, self.status, self.bodies, self.hung_up, self.keys = (
            cache,
            0.0,
            200,
            [],
            0,
            set(),
        )
        self.cut_after = None
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                server.keys.add(self.headers.get("Authorization"))
                self.answer(
                    200, {"object": "list", "data": [{"id": name} for name in server.served()]}
                )

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.bodies.append(body)
                if server.status != 200 or body["model"] not in server.served():
                    return self.answer(
                        server.status if server.status != 200 else 404, {"error": {"message": "no"}}
                    )
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                try:
                    for number, event in enumerate(server.events(body)):
                        if number == server.cut_after:
                            return None
                        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
                        time.sleep(server.delay_s)
                    self.wfile.write(b"data: [DONE]\n\n")
                except OSError:
                    server.hung_up += 1

            def answer(self, status, content):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(content).encode())

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def served(self):
        link = self.cache / "vllm"
        return [link.resolve().parent.name] if link.is_symlink() and link.exists() else []

    def events(self, body):
        checkpoint = load_checkpoint((self.cache / "vllm").resolve(), "cpu")
        model, prompt, eot = checkpoint.model, body["prompt"], checkpoint.tokenizer.eot_id
        ids = list(prompt)
        if body["echo"]:
            yield chunk([scored(model, ids, i, body["logprobs"]) for i in range(len(ids))], None)
        settings = dict(temperature=body["temperature"], top_k=body["top_k"], top_p=body["top_p"])
        drawn = 0
        seed = body["seed"] if body["seed"] is not None else 1
        for token in stream_ids(
            model, prompt, body["max_tokens"], eot_id=eot, seed=seed, **settings
        ):
            ids.append(token)
            drawn += 1
            yield chunk([scored(model, ids, len(ids) - 1, body["logprobs"])], None)
        full = drawn == body["max_tokens"] or len(ids) == model.config.block_size
        yield chunk([], "length" if full else "stop")

    def close(self):
        self.http.shutdown()
        self.http.server_close()


def scored(model, ids, index, top):
    """(token, logprob, likeliest) in the place of ids[index]."""
    if index == 0:
        return ids[0], None, None
    with torch.inference_mode():
        cache = model.new_cache(1)
        logits = model.extend(torch.tensor([ids[:index]]), cache, torch.tensor([0]))[0]
    logprobs = torch.log_softmax(logits.float(), 0)
    best = logprobs.topk(top) if top else None
    likeliest = (
        {f"token_id:{i}": p for p, i in zip(*map(torch.Tensor.tolist, best), strict=True)}
        if best
        else {}
    )
    own = float(logprobs[ids[index]])
    return ids[index], own, likeliest | {f"token_id:{ids[index]}": own}


def chunk(scores, reason):
    logprobs = {
        "tokens": [f"token_id:{token}" for token, _, _ in scores],
        "token_logprobs": [logprob for _, logprob, _ in scores],
        "top_logprobs": [likeliest for _, _, likeliest in scores],
        "text_offset": [0] * len(scores),
    }
    choice = {
        "index": 0,
        "text": "",
        "logprobs": logprobs if scores else None,
        "finish_reason": reason,
    }
    return {"id": "cmpl-x", "object": "text_completion", "choices": [choice]}
