"""Whether a model's scores tell data that it knows from data that it does not.

Read ``detection`` (the curves), then ``ood`` and ``anomaly``. Nothing here measures in nats: ``likelihood`` does.
"""
