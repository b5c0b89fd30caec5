package api

import "errors"

// Errors that callers tell apart. All but ErrNoDaemon survive the way from a
// server to a Client: errors.Is finds them on both sides.
var (
	// ErrUsage reports a request that can never succeed as it was put, such as a
	// target that is not a CID.
	ErrUsage = errors.New("bad request")
	// ErrQuota reports that the disk space given to the node is used up.
	ErrQuota = errors.New("no disk space left for it")
	// ErrUnreachable reports that no peer was reachable, or that none had what was
	// asked for, within the timeout.
	ErrUnreachable = errors.New("not reachable")
	// ErrNoDaemon reports that no daemon listens on a socket.
	ErrNoDaemon = errors.New("no daemon is running")
)

// codes are the names that errors have on the wire.
var codes = []struct {
	code string
	err  error
}{
	{"usage", ErrUsage},
	{"quota", ErrQuota},
	{"unreachable", ErrUnreachable},
}

// wireError is an error on its way from a server to a client. Code is empty for
// errors that callers do not tell apart.
type wireError struct {
	Message string `json:"message"`
	Code    string `json:"code,omitempty"`
}

func encodeError(err error) *wireError {
	w := &wireError{Message: err.Error()}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			w.Code = c.code
			break
		}
	}
	return w
}

// Error makes a received wireError an error.
func (w *wireError) Error() string { return w.Message }

// Is lets errors.Is find the sentinel that Code stands for.
func (w *wireError) Is(target error) bool {
	for _, c := range codes {
		if w.Code == c.code {
			return target == c.err
		}
	}
	return false
}
