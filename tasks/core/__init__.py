"""Plain Python: everything the flows do, without the flow engine. Nothing below imports prefect."""
