"""`kg up`: a Prefect server, everything in prefect.yaml, a worker; from start to stop."""
