"""An OpenAI-compatible server that answers nothing of its own: for tests of the benchmark's client. Standard library only.

A request whose x-request-id ends in 7 and has "fail" in it is answered with 503; with "break" in it, its stream breaks.
"""

import asyncio
import json


class StubServer:
    def __init__(self, first_s=0.02, token_s=0.002, answer="2"):
        self.first_s, self.token_s, self.answer = first_s, token_s, answer
        self.bodies = []

    async def start(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def serve(self, reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                lines = head.split("\r\n")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
                body = json.loads(await reader.readexactly(int(headers.get("content-length", 0))) or b"{}")
                path = lines[0].split()[1]
                if path == "/v1/models":
                    self.reply(writer, 200, {"data": [{"id": "nano-minimax-m2", "object": "model"}]})
                elif path in ("/v1/completions", "/v1/chat/completions"):
                    self.bodies.append(body)
                    await self.generate(writer, path, body, headers.get("x-request-id", ""))
                else:
                    self.reply(writer, 404, {"error": {"message": "no such path"}})
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            writer.close()

    def reply(self, writer, status, body):
        data = json.dumps(body).encode()
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)

    async def generate(self, writer, path, body, request_id):
        if request_id.endswith("7") and "fail" in request_id:
            return self.reply(writer, 503, {"error": {"message": "overloaded"}})

        def event(data):
            text = f"data: {data}\n\n".encode()
            writer.write(f"{len(text):x}\r\n".encode() + text + b"\r\n")

        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        chat = "chat" in path
        tokens = 1 if chat else body["max_tokens"]
        await asyncio.sleep(self.first_s)
        for i in range(tokens):
            finish = "length" if i + 1 == tokens else None
            text = self.answer if chat else " x"
            choice = {"delta": {"content": text}} if chat else {"text": text}
            event(json.dumps({"choices": [{"index": 0, "finish_reason": finish, **choice}]}))
            await writer.drain()
            if request_id.endswith("7") and "break" in request_id:
                writer.close()
                return
            await asyncio.sleep(self.token_s)
        prompt = body.get("prompt", "")
        count = len(prompt) if isinstance(prompt, list) else len(prompt.split())
        event(json.dumps({"choices": [], "usage": {"prompt_tokens": count, "completion_tokens": tokens}}))
        event("[DONE]")
        writer.write(b"0\r\n\r\n")
