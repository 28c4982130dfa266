from tap_resilient.tap import ResilientTap

# Taps that tests build in this process leave pytest its signals; the SDK's suite builds some while it is collected.
ResilientTap._setup_signal_handlers = lambda self: None
