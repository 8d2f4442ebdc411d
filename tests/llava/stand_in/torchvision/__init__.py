"""What transformers' image processors take from torchvision, by torch itself, where torchvision cannot be installed.

Resizing is torch's, which is also what the real one calls. For tests in a process of its own: with it on the path,
every processor believes that torchvision is there.
"""

__version__ = "0.27"
