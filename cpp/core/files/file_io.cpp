#include "core/files/file_io.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#if __has_include(<linux/openat2.h>)
#include <linux/openat2.h>
#endif

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <new>
#include <system_error>
#include <utility>
#include <vector>

namespace isthmus::detail {
namespace {

// O_NONBLOCK, so that opening a FIFO in place of a file does not hang.
constexpr int kReadFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;

std::string reason(int error) {
  if (error == ELOOP) return "a symbolic link lies on the path, and a bundle holds none";
  if (error == EXDEV) return "the path leaves the bundle";
  if (error == ENOENT) return "there is no such file";
  return std::generic_category().message(error);
}

void require_regular(const Descriptor& file) {
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) throw IoError(reason(errno));
  if (S_ISDIR(status.st_mode)) throw IoError("it is a directory, not a file");
  if (!S_ISREG(status.st_mode)) throw IoError("it is no regular file");
}

// Kernels before 5.6 have no openat2, and containers may forbid it. Then each part of the path is
// opened from its parent without following links.
int open_by_parts(int directory, std::string_view relative) {
  Descriptor parent;
  while (true) {
    const std::size_t slash = relative.find('/');
    const std::string part(relative.substr(0, slash));
    const int at = parent.valid() ? parent.get() : directory;
    if (slash == std::string_view::npos) return ::openat(at, part.c_str(), kReadFlags | O_NOFOLLOW);
    const int next =
        ::openat(at, part.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECTORY | O_NOFOLLOW | O_NOCTTY);
    if (next < 0) {
      // With O_DIRECTORY, a link to a directory gives ENOTDIR.
      struct stat status{};
      if (errno == ENOTDIR && ::fstatat(at, part.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0 &&
          S_ISLNK(status.st_mode)) {
        errno = ELOOP;
      }
      return -1;
    }
    parent = Descriptor(next);
    relative.remove_prefix(slash + 1);
  }
}

/// Returns the size of a file. @throws IoError when the rule does not allow it.
std::uint64_t checked_size(const Descriptor& file, const SizeRule& rule) {
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) throw IoError(reason(errno));
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (rule.exactly && size != *rule.exactly)
    throw IoError("expected " + std::to_string(*rule.exactly) + " bytes, got " +
                  std::to_string(size));
  if (!rule.exactly && size > rule.at_most)
    throw IoError("expected at most " + std::to_string(rule.at_most) + " bytes, got " +
                  std::to_string(size));
  return size;
}

/// @throws std::system_error.
void write_all(const Descriptor& file, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(file.get(), bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw std::system_error(errno, std::generic_category());
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
}

int open_beneath(int directory, const std::string& relative) {
#if defined(SYS_openat2) && defined(RESOLVE_BENEATH)
  struct open_how how{};
  how.flags = static_cast<std::uint64_t>(kReadFlags | O_NOFOLLOW);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  const long fd = ::syscall(SYS_openat2, directory, relative.c_str(), &how, sizeof how);
  if (fd >= 0 || (errno != ENOSYS && errno != EPERM && errno != EAGAIN)) {
    return static_cast<int>(fd);
  }
#endif
  return open_by_parts(directory, relative);
}

}  // namespace

Descriptor::Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

Descriptor open_file(const std::filesystem::path& path) {
  Descriptor file(::open(path.c_str(), kReadFlags));
  if (!file.valid()) throw IoError(reason(errno));
  require_regular(file);
  return file;
}

Buffer read_all(const Descriptor& file, const SizeRule& rule) {
  const std::uint64_t size = checked_size(file, rule);
  constexpr std::size_t kHugePage = 2 << 20;
  const bool large = size >= 4 * kHugePage;
  const std::align_val_t alignment{large ? kHugePage : 64};
  // At least one byte, so that the buffer of an empty file has an address.
  std::shared_ptr<std::byte[]> data(
      static_cast<std::byte*>(::operator new[](std::max<std::uint64_t>(size, 1), alignment)),
      [alignment](std::byte* pointer) { ::operator delete[](pointer, alignment); });
  // Advice only: without huge pages there is a page fault for every 4 KiB.
  if (large) ::madvise(data.get(), size, MADV_HUGEPAGE);
  std::size_t done = 0;
  while (done < size) {
    const ssize_t count = ::read(file.get(), data.get() + done, size - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw IoError(reason(errno));
    if (count == 0) throw IoError("it became shorter while it was read");
    done += static_cast<std::size_t>(count);
  }
  return {std::move(data), static_cast<std::size_t>(size)};
}

namespace {

Buffer map_whole(const Descriptor& file, const SizeRule& rule, int protection) {
  const std::size_t size = checked_size(file, rule);
  if (size == 0) return read_all(file, rule);  // an empty file cannot be mapped
  void* mapped = ::mmap(nullptr, size, protection, MAP_PRIVATE, file.get(), 0);
  if (mapped == MAP_FAILED) throw IoError("it cannot be mapped: " + reason(errno));
  return {std::shared_ptr<const std::byte[]>(
              static_cast<const std::byte*>(mapped),
              [size](const std::byte* at) { ::munmap(const_cast<std::byte*>(at), size); }),
          size};
}

}  // namespace

Buffer map_all(const Descriptor& file, const SizeRule& rule) {
  return map_whole(file, rule, PROT_READ);
}

Buffer map_private(const Descriptor& file, const SizeRule& rule) {
  return map_whole(file, rule, PROT_READ | PROT_WRITE);
}

void own_pages_outside(std::span<const std::byte> mapped, std::span<const ByteRange> shared) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  // Volatile, so that the compiler keeps the writes of unchanged values.
  auto* bytes = const_cast<volatile std::byte*>(mapped.data());
  std::size_t at = 0;
  const auto own_until = [&](std::size_t end) {
    for (; at < end; at += page) bytes[at] = bytes[at];
  };
  for (const ByteRange& range : shared) {
    own_until(range.begin);
    const std::size_t end = range.end / page * page;
    if (end <= at) continue;
    release_pages(mapped.subspan(at, end - at));
    at = end;
  }
  own_until(mapped.size());
}

void release_pages(std::span<const std::byte> mapped) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(mapped.data());
  const std::uintptr_t first = (begin + page - 1) / page * page;
  const std::uintptr_t last = (begin + mapped.size()) / page * page;
  if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

std::vector<std::byte> read_at(const Descriptor& file, std::uint64_t offset, std::size_t size) {
  std::vector<std::byte> bytes(size);
  std::size_t done = 0;
  while (done < size) {
    const ssize_t count =
        ::pread(file.get(), bytes.data() + done, size - done, static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw IoError(reason(errno));
    if (count == 0) break;
    done += static_cast<std::size_t>(count);
  }
  bytes.resize(done);
  return bytes;
}

void read_pieces(const Descriptor& file,
                 const std::function<void(std::span<const std::byte>)>& take) {
  constexpr std::size_t kPiece = 1 << 18;  // stays in the second-level cache
  std::vector<std::byte> piece(kPiece);
  for (off_t at = 0;;) {
    const ssize_t count = ::pread(file.get(), piece.data(), piece.size(), at);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw IoError(reason(errno));
    if (count == 0) return;
    take({piece.data(), static_cast<std::size_t>(count)});
    at += count;
  }
}

void write_file(const std::filesystem::path& path,
                std::span<const std::span<const std::byte>> pieces, const WriteOptions& options) {
  static std::atomic<unsigned> counter{0};
  std::filesystem::path temporary = path;
  temporary += "." + std::to_string(::getpid()) + "." + std::to_string(counter++) + ".tmp";
  try {
    const Descriptor file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (!file.valid()) throw std::system_error(errno, std::generic_category());
    for (const auto piece : pieces) write_all(file, piece);
    if (options.sync && ::fsync(file.get()) != 0)
      throw std::system_error(errno, std::generic_category());
    std::filesystem::rename(temporary, path);
  } catch (const std::system_error& error) {
    std::error_code ignored;  // there may be no temporary file
    std::filesystem::remove(temporary, ignored);
    throw IoError(error.code().message());
  }
}

std::optional<std::string> path_fault(std::string_view path) {
  if (path.empty()) return "it is empty";
  if (path.size() > 1024) return "it is longer than 1024 bytes";
  if (path.front() == '/') return "it is absolute";
  for (const char c : path) {
    if (c == '\\') return "it holds a backslash; use forward slashes";
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) return "it holds a control character";
  }
  while (true) {
    const std::size_t slash = path.find('/');
    const std::string_view part = path.substr(0, slash);
    if (part.empty()) return "it has an empty part";
    if (part == "." || part == "..") return "it has the part \"" + std::string(part) + "\"";
    if (slash == std::string_view::npos) return std::nullopt;
    path.remove_prefix(slash + 1);
  }
}

Root::Root(const std::filesystem::path& path)
    : directory_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECTORY)) {
  if (!directory_.valid()) throw IoError(reason(errno));
}

Descriptor Root::open(std::string_view relative) const {
  if (const auto fault = path_fault(relative)) throw IoError("bad path: " + *fault);
  Descriptor file(open_beneath(directory_.get(), std::string(relative)));
  if (!file.valid()) throw IoError(reason(errno));
  require_regular(file);
  return file;
}

Buffer Root::read(std::string_view relative, const SizeRule& rule) const {
  return read_all(open(relative), rule);
}

}  // namespace isthmus::detail
