"""A sample single-user server for Hub Steward: JupyterLab behind a hub.

The package carries the server's settings (``etc/jupyter/jupyter_server_config.d``); everything else is JupyterLab's.
"""
