"""``python -m amqpbroker`` is the command ``amqpbroker``."""

from amqpbroker.cli.main import main

if __name__ == "__main__":
    main()
