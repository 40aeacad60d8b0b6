"""The declared topology for other tools: Terraform, CloudFormation, IAM policies, CloudWatch alarms.

In: a :class:`~kombu_hake.topology.Blueprint`. Out: dicts, ready for ``json.dumps``. Only ``existing.py`` calls AWS, and
only to read. Open ``rights.py`` for what a role may do, ``names.py`` for identifiers in templates.
"""
