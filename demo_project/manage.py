#!/usr/bin/env python
import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
    if sys.argv[1:2] in (["runserver"], ["test"]):  # for developers' machines alone
        os.environ.setdefault("SHOP_DEBUG", "1")
    if sys.argv[1:2] == ["test"]:
        os.environ.setdefault("SHOP_LOG_LEVEL", "WARNING")
    execute_from_command_line(sys.argv)
