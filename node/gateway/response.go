package gateway

import (
	"bytes"
	"errors"
	"mime"
	"net/http"
	"regexp"
	"strings"
	"time"
)

// maxMessage bounds the text of an error, in bytes.
const maxMessage = 4 << 10

var errDiscarded = errors.New("this answer is not sent")

// response is the way of one answer to its reader. It holds the status back until
// the first byte of the body, so that a block that turns out to be missing by then
// still becomes an error page; it keeps the clocks of reader and network; and it
// sees to it that an answer that broke off does not end like a complete one.
type response struct {
	http.ResponseWriter
	ctl    *http.ResponseController
	req    *http.Request
	loads  *loads
	timer  *time.Timer // ends the request; runs while no write does
	limits limits

	ranged  bool         // the request that boxo got has a Range
	code    int          // status; 0 until the handler set one
	sent    bool         // the header is out
	broken  bool         // the handler failed after sent
	retry   bool         // serve the request again, without its Range
	message bytes.Buffer // body of an error, until finish makes a page of it
}

func newResponse(w http.ResponseWriter, r *http.Request, l *loads, timer *time.Timer, lim limits) *response {
	rw := &response{
		ResponseWriter: w,
		ctl:            http.NewResponseController(w),
		req:            r,
		loads:          l,
		timer:          timer,
		limits:         lim,
		ranged:         r.Header.Get("Range") != "",
	}
	rw.extend()
	return rw
}

// reset makes w ready for a second handler.
func (w *response) reset() {
	w.code, w.retry, w.ranged = 0, false, false
	w.message.Reset()
	clear(w.Header())
}

// extend gives the reader time for another write. It matters for an answer without
// a body too, as the deadline of the answer before it on the same connection
// still stands.
func (w *response) extend() {
	w.ctl.SetWriteDeadline(time.Now().Add(w.limits.stall)) // fails only on writers of tests
}

// WriteHeader takes the status. It is sent with the first byte, or by finish.
func (w *response) WriteHeader(code int) {
	if w.code != 0 {
		// Only boxo's handler of panics sets a second status.
		w.broken = w.broken || w.sent
		if !w.sent {
			w.code = code
		}
		return
	}
	w.code = code
	// boxo has already moved the content to where the range begins when it finds
	// that it must ignore the range (If-Range), and fails on a suffix longer than
	// the file. Neither may be sent.
	w.retry = w.ranged && w.loads.failed() == nil &&
		(code == http.StatusOK || code == http.StatusInternalServerError)
}

func (w *response) Write(p []byte) (int, error) {
	if w.code == 0 {
		w.WriteHeader(http.StatusOK)
	}
	switch {
	case w.retry:
		return 0, errDiscarded
	case w.isPlainError():
		w.message.Write(p[:min(len(p), maxMessage-w.message.Len())])
		return len(p), nil
	}
	w.timer.Stop() // what follows waits for the reader
	w.extend()
	w.send()
	n, err := w.ResponseWriter.Write(p)
	w.loads.progress()
	w.timer.Reset(w.limits.retrieval)
	return n, err
}

// Flush does nothing: net/http sends each 4 KiB anyway, and a header must be
// held back.
func (w *response) Flush() {}

func (w *response) send() {
	if !w.sent {
		w.sent = true
		w.ResponseWriter.WriteHeader(w.code)
	}
}

// isPlainError reports whether the handler answers with an error that is not a
// page of the site (_redirects can name one).
func (w *response) isPlainError() bool {
	if w.code < 400 {
		return false
	}
	t, _, _ := mime.ParseMediaType(w.Header().Get("Content-Type"))
	return t != "text/html"
}

// finish ends the answer. It panics with http.ErrAbortHandler, which cuts the
// connection, if an answer broke off that would otherwise look complete.
func (w *response) finish() {
	if w.code == 0 {
		w.code = http.StatusOK
	}
	failed := w.loads.failed()
	switch {
	case w.sent:
		// With a Content-Length, net/http itself cuts an answer that is too short,
		// and one that is not too short did not need the block.
		if w.broken || failed != nil && w.Header().Get("Content-Length") == "" {
			panic(http.ErrAbortHandler)
		}
	case failed != nil && (w.code >= 500 || w.code < 300 && w.req.Method != http.MethodHead):
		w.extend()
		w.writeError(statusOf(failed), failed.Error(), true)
	case w.isPlainError():
		w.extend()
		w.writeError(w.code, strings.TrimSpace(w.message.String()), false)
	default:
		w.extend()
		w.send()
	}
}

// writeError sends an error: as a page to browsers, as a line of text to others.
// unavailable means that blocks are missing, not that the request was wrong.
func (w *response) writeError(code int, message string, unavailable bool) {
	h := w.Header()
	for _, name := range []string{"Content-Length", "Content-Disposition", "Etag", "Last-Modified"} {
		h.Del(name)
	}
	if code != http.StatusRequestedRangeNotSatisfiable {
		h.Del("Content-Range") // there it says how long the file is
	}
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if code == http.StatusGatewayTimeout {
		h.Set("Retry-After", "10")
	}
	var body []byte
	if strings.Contains(w.req.Header.Get("Accept"), "text/html") {
		setPageHeaders(h)
		body = errorPage(w.req, code, message, unavailable)
	} else {
		h.Set("Content-Type", "text/plain; charset=utf-8")
		body = append([]byte(message), '\n')
	}
	w.code = code
	w.send()
	if w.req.Method != http.MethodHead {
		w.ResponseWriter.Write(body)
	}
}

var oneRange = regexp.MustCompile(`^bytes=([0-9]{1,18}-([0-9]{1,18})?|-[0-9]{1,18})$`)

// cleanRange drops a Range that is not one well-formed range of bytes, as RFC
// 9110 lets a server do. boxo serves only the first of several, and refuses
// malformed ones.
func cleanRange(h http.Header) {
	if v := h.Values("Range"); len(v) > 1 || len(v) == 1 && !oneRange.MatchString(v[0]) {
		h.Del("Range")
	}
}
