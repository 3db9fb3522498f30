"""Models and objects of other libraries, taken over."""

from tfprune.interop import tfmot
