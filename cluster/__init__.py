"""The local kind cluster behind ``make up``: tools, node image, images, install.

Standard library only: this package runs before anything of the project is installed, on a bare machine.
"""
