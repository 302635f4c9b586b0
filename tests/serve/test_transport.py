"""The head of an answer goes out with its first bytes, or by itself once nothing follows."""

import asyncio

from mainstem.serve.transport import Joining

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Sent(list):
    closed = False

    def write(self, data):
        self.append(data)

    def close(self):
        self.closed = True

    def get_extra_info(self, name):
        return f"{name} of the socket"


def test_head_and_body_are_one_write():
    async def run():
        sent = Sent()
        transport = Joining(sent)
        transport.write(HEAD)
        assert sent == []
        transport.write(b"{}")
        transport.write(b"more")
        assert sent == [HEAD + b"{}", b"more"]
        transport.write(HEAD)  # what follows comes later: it must not wait for it
        await asyncio.sleep(0)
        assert sent[2:] == [HEAD]
        transport.write(HEAD)
        transport.close()
        assert sent[3:] == [HEAD]
        assert sent.closed
        await asyncio.sleep(0)
        assert len(sent) == 4
        assert transport.get_extra_info("peername") == "peername of the socket"

    asyncio.run(run())
