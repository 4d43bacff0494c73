// SPDX-License-Identifier: Apache-2.0
//
// Which pages of my private file mapping have been copied? Asks cowd, as any user.
//
// Usage: copied FILE      maps four pages of it, which it only reads: the file stays as it is
//
// COWD_SOCKET names another socket than the usual one. Exit status: 0 done, 1 failed, 2 wrong usage.

#include <absl/status/status.h>
#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>

#include "cowd/v1/pageflags.grpc.pb.h"
#include "error_details.pb.h"

namespace {

using cowd::v1::PageFlagsService;

constexpr long kPageCount = 4;
constexpr std::chrono::seconds kTimeout(30);

// Maps the first pages of a file privately, writes to 0 and 2, reads 3, leaves 1 alone.
const volatile char* MapAndTouch(const std::string& path) {
  const long page_bytes = sysconf(_SC_PAGESIZE);
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat about;
  if (file < 0 || fstat(file, &about) != 0) {
    throw std::system_error(errno, std::generic_category(), "cannot open " + path);
  }
  if (about.st_size <= (kPageCount - 1) * page_bytes) {
    throw std::runtime_error(path + " is shorter than four pages: name a longer file");
  }
  void* const mapped =
      mmap(nullptr, kPageCount * page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
  if (mapped == MAP_FAILED) {
    throw std::system_error(errno, std::generic_category(), "cannot map " + path);
  }
  close(file);

  volatile char* const memory = static_cast<volatile char*>(mapped);
  memory[0] = 'w';
  memory[2 * page_bytes] = 'w';
  static_cast<void>(memory[3 * page_bytes]);
  return memory;
}

// The address of the daemon as gRPC writes it; COWD_SOCKET may be a plain path as well.
std::string ReadTarget() {
  const char* const socket = std::getenv("COWD_SOCKET");
  const std::string target = socket && *socket ? socket : "unix:/run/cowd/cowd.sock";
  return target.rfind("unix:", 0) == 0 ? target : "unix:" + target;
}

// Why cowd refused a call, such as "ACCESS_DENIED"; empty if the failure is not cowd's own.
std::string ReadReason(const grpc::Status& status) {
  cowd::examples::Status details;
  cowd::examples::ErrorInfo info;
  if (details.ParseFromString(status.error_details())) {
    for (const auto& detail : details.details()) {
      if (detail.type_url() == "type.googleapis.com/google.rpc.ErrorInfo" &&
          info.ParseFromString(detail.value())) {
        return info.reason();
      }
    }
  }
  return "";
}

// What to tell the user about a failed call.
std::string Explain(const grpc::Status& status, const std::string& target) {
  // gRPC has no function for the names of its codes; those of absl are the same.
  const std::string code =
      absl::StatusCodeToString(static_cast<absl::StatusCode>(status.error_code()));
  const std::string reason = ReadReason(status);
  if (!reason.empty()) {
    return code + " (" + reason + "): " + status.error_message();
  }
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE) {
    return "cannot reach cowd at " + target + ": " + code + ": " + status.error_message() +
           "\nIs the daemon running? Another socket is named by COWD_SOCKET.";
  }
  return code + ": " + status.error_message();
}

cowd::v1::GetPageFlagsResponse GetPageFlags(const volatile char* memory) {
  const std::string target = ReadTarget();
  grpc::ChannelArguments arguments;
  // Releases newer than Debian 12's would send the socket's path, which is no host name.
  arguments.SetString(GRPC_ARG_DEFAULT_AUTHORITY, "localhost");
  const auto stub = PageFlagsService::NewStub(
      grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments));

  cowd::v1::GetPageFlagsRequest request;
  request.set_pid(getpid());
  request.set_address(reinterpret_cast<std::uintptr_t>(memory));
  request.set_count(kPageCount);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kTimeout);
  cowd::v1::GetPageFlagsResponse response;
  const grpc::Status status = stub->GetPageFlags(&context, request, &response);
  if (!status.ok()) {
    throw std::runtime_error(Explain(status, target));
  }
  return response;
}

// In a private mapping of a file, an anonymous page is a copy, wherever it is now.
bool IsCopied(cowd::v1::PageState state) {
  return state == cowd::v1::PAGE_STATE_ANON || state == cowd::v1::PAGE_STATE_ANON_SWAPPED;
}

void Print(const cowd::v1::GetPageFlagsResponse& response) {
  std::printf("PAGE %-23s COPIED FLAGS\n", "STATE");
  for (int page = 0; page < response.state_size(); page++) {
    const cowd::v1::PageState state = response.state(page);
    std::printf("%4d %-23s %-6s 0x%llx\n", page, cowd::v1::PageState_Name(state).c_str(),
                IsCopied(state) ? "yes" : "no",
                static_cast<unsigned long long>(response.kpageflags(page)));
  }
}

}  // namespace

int main(int argc, char* argv[]) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: copied FILE\n");
    return 2;
  }
  try {
    Print(GetPageFlags(MapAndTouch(argv[1])));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "copied: %s\n", error.what());
    return 1;
  }
  return 0;
}
