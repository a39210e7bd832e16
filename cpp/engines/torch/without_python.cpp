// Takes the place of libtorch_python.so, by whose name the loader finds it, in a process without
// Python. It has no symbols: a library that uses any of libtorch_python.so cannot be opened.
