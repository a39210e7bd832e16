#pragma once

#include <unistd.h>

#include <cstddef>
#include <iostream>
#include <string>

namespace isthmus::cli {

/// Shows "64 of 1000 requests" on standard error when that is a terminal; the destructor erases it.
class Progress {
 public:
  Progress(std::size_t total, std::string noun)
      : total_(total), noun_(std::move(noun)), shown_(::isatty(STDERR_FILENO) != 0) {}
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() {
    if (shown_) std::cerr << "\r\033[K" << std::flush;
  }

  void show(std::size_t done) const {
    if (shown_) std::cerr << '\r' << done << " of " << total_ << ' ' << noun_ << std::flush;
  }

 private:
  std::size_t total_;
  std::string noun_;
  bool shown_;
};

}  // namespace isthmus::cli
