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

namespace isthmus::detail {

/// Why a file could not be read; callers turn it into the public error that fits.
class IoError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A whole file in memory, aligned to 64 bytes so that engines can use tensors in place.
struct Buffer {
  std::shared_ptr<const std::byte[]> data;
  std::size_t size = 0;
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return {data.get(), size}; }
};

/// An open file descriptor.
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

/// How large a file may be, or must be.
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

/// Opens a regular file for reading. Symbolic links are followed: the caller named this path.
/// @throws IoError.
Descriptor open_file(const std::filesystem::path& path);

/// Reads an open regular file whole, after its size has been judged. @throws IoError.
Buffer read_all(const Descriptor& file, const SizeRule& rule);

/// Maps an open regular file read-only, after its size has been judged. @throws IoError.
Buffer map_all(const Descriptor& file, const SizeRule& rule);

/// Maps an open regular file so that pages may be written to: the file does not change, and a page
/// that was written to is this process's own. @throws IoError.
Buffer map_private(const Descriptor& file, const SizeRule& rule);

/// Makes every page of what `map_private` gave this process's own, but for those that lie wholly in
/// one of `shared` (sorted, apart): no later change of the file reaches them. The latter count as
/// nobody's memory until they are touched again.
void own_pages_outside(std::span<const std::byte> mapped, std::span<const ByteRange> shared);

/// Lets go of pages that `map_all` gave, but for those at the ends: they stay in the system's cache
/// and count as nobody's memory until they are touched again.
void let_go(std::span<const std::byte> mapped);

/// Hands the content of an open file to `take`, piece by piece from its start. @throws IoError.
void read_pieces(const Descriptor& file,
                 const std::function<void(std::span<const std::byte>)>& take);

/// Why `path` may not stand in a bundle; nullopt for a good one: relative, forward slashes, no
/// empty,
/// "." or ".." parts, no control characters.
std::optional<std::string> path_fault(std::string_view path);

/// A directory that files are opened beneath. Whatever the path, nothing outside is reached and no
/// symbolic link is passed through; the directory itself may be reached through one.
class Root {
 public:
  /// @throws IoError.
  explicit Root(const std::filesystem::path& path);

  /// Opens the regular file at a relative path. @throws IoError.
  [[nodiscard]] Descriptor open(std::string_view relative) const;

  /// Opens and reads it. @throws IoError.
  [[nodiscard]] Buffer read(std::string_view relative, const SizeRule& rule) const;

 private:
  Descriptor directory_;
};

}  // namespace isthmus::detail
