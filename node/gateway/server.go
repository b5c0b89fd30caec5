package gateway

import (
	"log/slog"
	"net/http"
	"time"
)

// readTimeout is how long a client may take to send a request.
const readTimeout = 10 * time.Second

// NewServer returns a server for a handler of New, with limits on what clients
// can hold: 10 s and 32 KiB for a request's header, 60 s for an idle connection.
// How long an answer may take is up to the handler. The caller gives it a
// listener, and shuts it down. Faults of connections go to log.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readTimeout,
		MaxHeaderBytes:    32 << 10,
		IdleTimeout:       60 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}
