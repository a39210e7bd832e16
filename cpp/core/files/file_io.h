#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace isthmus::detail {

/// An error of reading or writing a file, without its name. Callers turn it into a public error.
class IoError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A file in memory, aligned to 64 bytes so that engines can use its tensors in place.
struct Buffer {
  std::shared_ptr<const std::byte[]> data;
  std::size_t size = 0;
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return {data.get(), size}; }
};

/// Owns an open file descriptor.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) noexcept : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept;
  Descriptor& operator=(Descriptor&& other) noexcept;
  ~Descriptor();
  [[nodiscard]] int get() const noexcept { return fd_; }
  [[nodiscard]] bool valid() const noexcept { return fd_ >= 0; }

 private:
  int fd_;
};

/// The size that a file must have: `exactly` when it is set, else `at_most`.
struct SizeRule {
  std::uint64_t at_most = 0;
  std::optional<std::uint64_t> exactly;
};

/// Bytes [begin, end) of a file.
struct ByteRange {
  std::size_t begin = 0;
  std::size_t end = 0;
  bool operator==(const ByteRange&) const = default;
};

/// Opens a regular file for reading. Symbolic links are followed, because the caller named the
/// path.
/// @throws IoError.
Descriptor open_file(const std::filesystem::path& path);

/// Reads an open regular file after checking its size. @throws IoError.
Buffer read_all(const Descriptor& file, const SizeRule& rule);

/// Maps an open regular file read-only after checking its size. @throws IoError.
Buffer map_all(const Descriptor& file, const SizeRule& rule);

/// Maps an open regular file for copy on write: the file never changes, and pages that are written
/// to become private to the process. @throws IoError.
Buffer map_private(const Descriptor& file, const SizeRule& rule);

/// Makes all pages of a `map_private` mapping private to the process, so that later changes of the
/// file do not reach them, except for pages that lie entirely in one of the `shared` ranges
/// (sorted, disjoint). Those are released, and use no memory until they are read again.
void own_pages_outside(std::span<const std::byte> mapped, std::span<const ByteRange> shared);

/// Releases the whole pages of a `map_all` mapping: they stay in the system's cache, and use no
/// memory of the process until they are read again.
void release_pages(std::span<const std::byte> mapped);

/// Reads up to `size` bytes at an offset, fewer at the end of the file. @throws IoError.
std::vector<std::byte> read_at(const Descriptor& file, std::uint64_t offset, std::size_t size);

/// Calls `take` with the pieces of an open file in order. @throws IoError.
void read_pieces(const Descriptor& file,
                 const std::function<void(std::span<const std::byte>)>& take);

struct WriteOptions {
  bool sync = true;  ///< the data are on the disk before the file gets its name
};

/// Writes a file atomically: to a temporary name in the same folder, which is then renamed. Readers
/// see the old file or the complete new one. @throws IoError, and leaves no temporary file.
void write_file(const std::filesystem::path& path,
                std::span<const std::span<const std::byte>> pieces,
                const WriteOptions& options = {});

/// Returns why a path may not be in a bundle. A good path (nullopt) is relative, has forward
/// slashes, no empty, "." or ".." parts, and no control characters.
std::optional<std::string> path_fault(std::string_view path);

/// A directory under which files are opened. No path leads out of it or through a symbolic link.
/// The path of the directory itself may contain links.
class Root {
 public:
  /// @throws IoError.
  explicit Root(const std::filesystem::path& path);

  /// Opens the regular file at a relative path. @throws IoError.
  [[nodiscard]] Descriptor open(std::string_view relative) const;

  /// Opens and reads the regular file at a relative path. @throws IoError.
  [[nodiscard]] Buffer read(std::string_view relative, const SizeRule& rule) const;

 private:
  Descriptor directory_;
};

}  // namespace isthmus::detail
