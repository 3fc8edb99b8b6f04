"""256 streams at once on a nano model, a third of them left midway: every other one gets the greedy text that it gets
alone, and nothing leaks."""
import asyncio
import json
import random

import httpx

from server_process import http

STREAMS = 256


def prompt_of(index):
    return [300 + (index * 7 + i * 13) % 700 for i in range(3 + index % 40)]


def body_of(index, length):
    return {"prompt": prompt_of(index), "max_tokens": length, "temperature": 0, "ignore_eos": True, "stream": True,
            "return_token_ids": True}


async def read(client, index, length, leave_after):
    """The token ids of a stream; None if it was left."""
    ids = []
    async with client.stream("POST", "/v1/completions", json=body_of(index, length)) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            ids += json.loads(line[6:])["choices"][0]["token_ids"]
            if leave_after is not None and len(ids) >= leave_after:
                return None
    return ids


async def all_at_once(url, lengths, leave):
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits, verify=False) as client:
        return await asyncio.gather(*[read(client, i, lengths[i], leave[i]) for i in range(STREAMS)])


def test_256_streams_a_third_left_midway(minimo):
    draw = random.Random(1)
    lengths = [draw.randint(4, 64) for _ in range(STREAMS)]
    leave = [draw.randint(1, length) if i % 3 == 0 else None for i, length in enumerate(lengths)]
    together = asyncio.run(all_at_once(minimo.url, lengths, leave))
    minimo.wait_idle(60)
    assert minimo.metric("vllm:kv_cache_usage_perc") == 0, "blocks leaked"
    compared = 0
    for index in range(STREAMS):
        if leave[index] is not None:
            continue
        alone = http.post(minimo.url + "/v1/completions", json={**body_of(index, lengths[index]), "stream": False}).json()
        assert together[index] == alone["choices"][0]["token_ids"], index
        compared += 1
    assert compared == STREAMS - len([x for x in leave if x is not None])
    minimo.wait_idle()
