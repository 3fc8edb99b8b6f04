#!/usr/bin/env python3
"""What a server on a GPU must answer: see serve_check.sh.

same BASE   every kind of sampling, alone: asking for log-probabilities, which takes another way to the token, must not
            change it
together BASE   the same together must not differ from alone
logits FILE FILE   what minimo logits wrote twice, within 1e-4
fault BASE  the server's device is about to fail: requests end with an error, later ones are refused, health is red
"""
import array
import json
import struct
import sys
import threading
import time
import urllib.error
import urllib.request

KINDS = [dict(temperature=0), dict(temperature=.8, top_p=.95), dict(temperature=1, top_k=40, top_p=.95),
         dict(temperature=1, min_p=.05), dict(temperature=.7, top_k=20),
         dict(temperature=1), dict(temperature=.5, top_p=.6)]


def get(url, body=None, timeout=30):
    """Status and body."""
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data=data, headers={"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def at_once(calls):
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def same(base, model, part):
    def text(kind, seed, out, **more):
        status, body = get(base + "/v1/completions", dict(
            model=model, prompt=f"Once upon a time number {seed} ", max_tokens=60, seed=seed, ignore_eos=True,
            **KINDS[kind], **more))
        out[kind, seed] = json.loads(body)["choices"][0]["text"] if status == 200 else body

    plain, other = {}, {}
    pairs = [(kind, seed) for kind in range(len(KINDS)) for seed in range(4)]
    for kind, seed in pairs:
        text(kind, seed, plain)
        if part == "same":
            text(kind, seed, other, logprobs=1)
    if part == "together":
        at_once([lambda k=kind, s=seed: text(k, s, other) for kind, seed in pairs])
    different = sum(plain[pair] != other[pair] for pair in pairs)
    greedy = sum(plain[pair] != other[pair] for pair in pairs if pair[0] == 0)
    print(json.dumps({"check": part, "pairs": len(pairs), "different": different, "greedy_different": greedy}))
    return different == 0


def fault(base, model):
    answers = []

    def ask(i):
        answers.append(get(base + "/v1/completions", dict(model=model, prompt=f"Tell {i}" + " and on" * 80,
                                                          max_tokens=300, temperature=0, ignore_eos=True))[0])

    begin = time.time()
    at_once([lambda i=i: ask(i) for i in range(8)])
    seconds = round(time.time() - begin, 2)
    later, body = get(base + "/v1/completions", dict(model=model, prompt="x", max_tokens=5))
    health, _ = get(base + "/health")
    print(json.dumps({"check": "fault", "answers": answers, "seconds": seconds, "later": later, "health": health,
                      "says": json.loads(body)["error"]["message"]}))
    return answers == [500] * 8 and later == 503 and health == 503


def logits(*paths):
    rows = []
    for path in paths:
        with open(path, "rb") as f:
            data = f.read()
        header, = struct.unpack("<Q", data[:8])
        begin, end = json.loads(data[8:8 + header])["logits"]["data_offsets"]
        rows.append(array.array("f", data[8 + header + begin:8 + header + end]))
    error = (sum((a - b) ** 2 for a, b in zip(*rows)) / sum(b * b for b in rows[1])) ** .5
    print(json.dumps({"check": "logits", "numbers": [len(r) for r in rows], "relative_error": error}))
    return len(rows[0]) == len(rows[1]) and error < 1e-4


def main():
    if sys.argv[1] == "logits":
        sys.exit(0 if logits(*sys.argv[2:]) else 1)
    part, base = sys.argv[1:]
    model = json.loads(get(base + "/v1/models")[1])["data"][0]["id"]
    sys.exit(0 if (fault(base, model) if part == "fault" else same(base, model, part)) else 1)


main()
