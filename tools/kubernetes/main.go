// Command kubernetes is several upstream commands in one binary: it becomes the one whose name it is called by.
//
// One build links what the commands share only once, which is most of each. To add a command, write a file beside
// this one that names it in commands; the links are made by whoever builds (tools/lab/binaries.py).
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// commands maps the name that a caller uses to what runs then; what it returns is the exit code.
var commands = map[string]func() int{}

func main() {
	name := filepath.Base(os.Args[0])
	if run, ok := commands[name]; ok {
		os.Exit(run())
	}
	// Called by its own name it prints the others, so that the builder knows which links to make.
	names := make([]string, 0, len(commands))
	for known := range commands {
		names = append(names, known)
	}
	sort.Strings(names)
	fmt.Println(strings.Join(names, "\n"))
}
