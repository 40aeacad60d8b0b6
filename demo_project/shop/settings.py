"""Settings of the shop.

Settings that differ between machines come from these environment variables:

| variable | default | meaning |
|---|---|---|
| `SHOP_SECRET_KEY` | none | Django's secret key; required unless `SHOP_DEBUG` is 1 |
| `SHOP_DEBUG` | 0 | 1 on a developer's machine: Django's debug pages, cookies without https |
| `SHOP_ALLOWED_HOSTS` | `localhost,127.0.0.1` | host names that the site answers to, with commas |
| `SHOP_DATABASE` | `shop.sqlite3` here | path of the database file |
| `SHOP_LOG_LEVEL` | `INFO` | level of the log, for web servers and workers |
| `SHOP_BROKER_URL` | `hake://` | where messages go: `hake:///live?region=eu-west-1`, or an emulator |
| `SHOP_PARTNERS_URL` | none | where the shop's business partners answer; without it they are left out |
"""

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent

# --- Django

DEBUG = os.environ.get("SHOP_DEBUG", "0") == "1"
SECRET_KEY = os.environ.get("SHOP_SECRET_KEY") or ("for development only" if DEBUG else "")
if not SECRET_KEY:
    raise ImproperlyConfigured("Set SHOP_SECRET_KEY; on a developer's machine, SHOP_DEBUG=1 instead.")
ALLOWED_HOSTS = os.environ.get("SHOP_ALLOWED_HOSTS", "localhost,127.0.0.1").split(",")
CSRF_COOKIE_SECURE = SESSION_COOKIE_SECURE = not DEBUG

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "kombu_hake.contrib.django",  # checks the settings of the last section
    "orders",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "shop.urls"
WSGI_APPLICATION = "shop.wsgi.application"
ASGI_APPLICATION = "shop.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_REDIRECT_URL = LOGOUT_REDIRECT_URL = "storefront"
STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "static"
TIME_ZONE = "UTC"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SHOP_DATABASE", BASE_DIR / "shop.sqlite3"),
        # Several worker processes write: readers must not block them, and each waits for its turn.
        "OPTIONS": {
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            "transaction_mode": "IMMEDIATE",
            "timeout": 30,
        },
        # A file, not memory: a test runs a worker in a thread, which has its own connection.
        "TEST": {"NAME": BASE_DIR / "test-shop.sqlite3"},
    }
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": os.environ.get("SHOP_LOG_LEVEL", "INFO")},
}

# --- the shop

PARTNERS_URL = os.environ.get("SHOP_PARTNERS_URL", "")

# --- messages; topics, groups and their queues are in orders/events.py and orders/tasks.py

CELERY_BROKER_URL = os.environ.get("SHOP_BROKER_URL", "hake://")
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_IGNORE_RESULT = True
# A task is acknowledged when it has finished. If its worker dies before, another worker runs it again.
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
# A worker takes no more than it is working on, so the rest of a backlog is free for other workers of its group.
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
# Workers log as LOGGING says.
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
