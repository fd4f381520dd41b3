"""The operations of a forward pass, one a file: formula, torch twin, kernel, thin wrapper."""

from engine.kernels.cache import (
    compile_in_turns,
    find_kernels_of_kernels,
    forgive_unwritable_cache,
    number_functions_apart,
)

forgive_unwritable_cache()  # here, for some kernels are compiled as their modules are imported
find_kernels_of_kernels()
compile_in_turns()
number_functions_apart()
