"""A command of remote control makes each worker publish its reply to any exchange and key that the command names.

Versions tried
    kombu 5.7.0, Celery 5.7.0, Python 3.11; broker memory://.
What happens
    `kombu.pidbox.Node.dispatch` replies to `reply_to["exchange"]` with `reply_to["routing_key"]`, as they are in
    the message, by `Mailbox._publish_reply`, which declares that exchange, too. So whoever may send a command, or
    a forged one to one worker's queue, has the worker publish with the worker's rights: into the exchange of
    another application, or back into the queue of remote control.
Expected
    Replies go to reply exchanges only (`reply.<namespace>.pidbox`), and a reply declares nothing that the command
    names.
Suggested change
    In `Node.dispatch`, compare `reply_to["exchange"]` with `self.mailbox.reply_exchange.name`, and log and drop
    what is another.

Run it with a limit, such as ``timeout 60``: exit code 1 and "REPRODUCED" while the fault is there.
"""

from kombu import Connection, Exchange, Queue
from kombu.pidbox import Mailbox

if __name__ == "__main__":
    with Connection("memory://") as connection:
        channel = connection.channel()
        victim = Queue("victim", Exchange("victim", "direct", durable=False), routing_key="victim")(channel)
        victim.declare()
        node = Mailbox("demo")(connection).Node("worker@host", handlers={"ping": lambda state: "pong"}, channel=channel)
        command = {
            "method": "ping",
            "arguments": {},
            "destination": None,
            "reply_to": {"exchange": "victim", "routing_key": "victim"},
            "ticket": "1",
        }
        node.handle_message(command)
        found = victim.get(no_ack=True)
        if found is not None:
            raise SystemExit(f"REPRODUCED: the reply arrived in the queue of another application: {found.payload}")
