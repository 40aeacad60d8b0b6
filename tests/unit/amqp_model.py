"""AMQP's routing, said so that it is plainly right."""


def amqp_topic_match(pattern: str, key: str) -> bool:
    """Whether a topic pattern matches a routing key, as RabbitMQ splits and matches them."""

    def match(expected: list[str], words: list[str]) -> bool:
        if not expected:
            return not words
        if expected[0] == "#":
            return any(match(expected[1:], words[taken:]) for taken in range(len(words) + 1))
        return bool(words) and expected[0] in ("*", words[0]) and match(expected[1:], words[1:])

    return match(pattern.split(".") if pattern else [], key.split(".") if key else [])
