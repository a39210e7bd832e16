#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>

#include "isthmus/bundle.h"

namespace isthmus::detail {

using Bytes = std::span<const std::byte>;

/// Compares the content of a listed file with its digests. Returns what differs, or an empty
/// string. Digests of chunks are compared by one thread per processor; the extra threads have a low
/// priority, so that they do not delay other work.
/// @param parts  the content, in order
/// @param done   called with each piece that will not be read again, from any of the threads
std::string digest_fault(const FileEntry& entry, std::span<const Bytes> parts,
                         const std::function<void(Bytes)>& done = {});

/// Returns the message for digests that differ.
/// @param where  the place in the content, such as " in bytes 1 to 9"
std::string digest_mismatch(const std::string& expected, const std::string& got,
                            const std::string& where = "");

}  // namespace isthmus::detail
