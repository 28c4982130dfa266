"""The tour: an API that misbehaves, a load, and one failure of each of the seven kinds."""
