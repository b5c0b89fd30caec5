package node

import (
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
)

// Size is a number of bytes, written as "20GB" or "512KiB".
type Size int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(text []byte) error {
	n, err := humanize.ParseBytes(string(text))
	if err != nil || n > math.MaxInt64 {
		return fmt.Errorf("%q is not a size, such as 20GB or 512KiB", text)
	}
	*s = Size(n)
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

func (s Size) String() string { return strconv.FormatInt(int64(s), 10) + "B" }

// DHTMode says which part a node takes in the DHT.
type DHTMode string

const (
	DHTAuto   DHTMode = "auto"   // server while publicly reachable, else client
	DHTServer DHTMode = "server" // keeps records, and answers others
	DHTClient DHTMode = "client" // only asks
)

// AnnounceMode says which blocks a node announces in the DHT.
type AnnounceMode string

const (
	AnnounceAll      AnnounceMode = "all"      // every block
	AnnounceEntities AnnounceMode = "entities" // roots of files and directories
	AnnounceRoots    AnnounceMode = "roots"    // roots of sites
)

// LogLevel is the least severe level that is logged.
type LogLevel string

const (
	LogDebug LogLevel = "debug"
	LogInfo  LogLevel = "info"
	LogWarn  LogLevel = "warn"
	LogError LogLevel = "error"
)

// Level makes a LogLevel a slog.Leveler. It returns slog.LevelWarn for a value
// that is none of the above.
func (l LogLevel) Level() slog.Level {
	level := slog.LevelWarn
	if l.check() == nil {
		level.UnmarshalText([]byte(l))
	}
	return level
}

func (m DHTMode) check() error      { return oneOf(m, DHTAuto, DHTServer, DHTClient) }
func (m AnnounceMode) check() error { return oneOf(m, AnnounceAll, AnnounceEntities, AnnounceRoots) }
func (l LogLevel) check() error     { return oneOf(l, LogDebug, LogInfo, LogWarn, LogError) }

// The enumerations are read and written as text, by flags too, and never become
// a value that is none of theirs.

func (m *DHTMode) UnmarshalText(text []byte) error      { return unmarshal(m, text) }
func (m *AnnounceMode) UnmarshalText(text []byte) error { return unmarshal(m, text) }
func (l *LogLevel) UnmarshalText(text []byte) error     { return unmarshal(l, text) }

func (m DHTMode) MarshalText() ([]byte, error)      { return []byte(m), m.check() }
func (m AnnounceMode) MarshalText() ([]byte, error) { return []byte(m), m.check() }
func (l LogLevel) MarshalText() ([]byte, error)     { return []byte(l), l.check() }

func (m DHTMode) String() string      { return string(m) }
func (m AnnounceMode) String() string { return string(m) }
func (l LogLevel) String() string     { return string(l) }

func unmarshal[T interface {
	~string
	check() error
}](dst *T, text []byte) error {
	if err := T(text).check(); err != nil {
		return err
	}
	*dst = T(text)
	return nil
}

func oneOf[T ~string](v T, allowed ...T) error {
	if slices.Contains(allowed, v) {
		return nil
	}
	names := make([]string, len(allowed))
	for i, a := range allowed {
		names[i] = string(a)
	}
	return fmt.Errorf("%q is not one of %s", string(v), strings.Join(names, ", "))
}
