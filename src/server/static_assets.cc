#include "server/static_assets.h"

#include "base/error.h"
#include "server/api_error.h"

namespace minimo::server {

void HandleStatic(HttpRequest&& request, ReplyPtr reply) {
  const StaticAsset* asset = FindAsset(request.path);
  if (asset == nullptr) {
    reply->Send(ErrorResponse({.status = 404,
                               .code = "not_found",
                               .message = fmt::format("There is no file at {}.", request.path)},
                              false));
    return;
  }
  HttpResponse response;
  response.content_type = std::string(asset->content_type);
  response.body = std::string(asset->body);
  response.headers.emplace_back("Cache-Control", "no-cache");
  response.headers.emplace_back("X-Content-Type-Options", "nosniff");
  response.headers.emplace_back("Content-Security-Policy",
                                "default-src 'self'; img-src 'self' data:; object-src 'none'; frame-ancestors 'none'");
  reply->Send(std::move(response));
}

}  // namespace minimo::server
