#include "isthmus/tensor_file.h"

#include <cstring>
#include <string>

#include "core/files/file_io.h"
#include "core/files/little_endian.h"
#include "isthmus/error.h"
#include "isthmus/identify.h"

namespace isthmus {

NamedTensors read_tensors(const std::filesystem::path& path) {
  const std::string label = path.string();
  detail::Buffer file;
  try {
    file = detail::read_all(detail::open_file(path), {.at_most = UINT64_MAX, .exactly = {}});
  } catch (const detail::IoError& error) {
    throw InvalidInput(label + ": cannot be read: " + error.what());
  } catch (const std::bad_alloc&) {
    throw InvalidInput(label + ": does not fit in memory");
  }
  const auto bytes = file.bytes();
  if (bytes.size() >= 2 && std::memcmp(bytes.data(), "PK", 2) == 0) return parse_npz(bytes, label);
  const bool safetensors = bytes.size() >= 9 && bytes[8] == std::byte{'{'};
  if (safetensors) return parse_safetensors(bytes, label);
  throw InvalidInput(label + ": expected a .safetensors or .npz file, got " +
                     identify_file(path).kind +
                     "; write one with safetensors' save_file or numpy.savez");
}

}  // namespace isthmus
