// Command krew is the plugin manager of kubectl, which the tests install the plugin with.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"sigs.k8s.io/krew/cmd/krew/cmd"
)

// kubectl runs a program of this name as `kubectl krew`.
const name = "kubectl-krew"

func main() {
	if filepath.Base(os.Args[0]) == name {
		cmd.Execute()
		return
	}
	// Called by its own name it prints the other, so that the builder knows which link to make.
	fmt.Println(name)
}
