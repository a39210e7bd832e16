#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>

#include "isthmus/bundle.h"

namespace isthmus::detail {

using Bytes = std::span<const std::byte>;

/// What is wrong with the content of a listed file; empty when nothing is. Digests of chunks are
/// compared side by side, by one thread for each processor; extra threads have a low priority, for
/// a load has better things to do on busy processors.
/// @param parts  the content, in order
/// @param done   told of each piece that will not be read again, from any of the threads
std::string content_fault(const FileEntry& entry, std::span<const Bytes> parts,
                          const std::function<void(Bytes)>& done = {});

/// The sentence that says so. @param where  of the content, such as " in bytes 1 to 9"
std::string changed(const std::string& expected, const std::string& got,
                    const std::string& where = "");

}  // namespace isthmus::detail
