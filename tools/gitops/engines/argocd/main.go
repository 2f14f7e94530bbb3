// Command argocd is the parts of Argo CD that synchronize Git with a cluster, its API server, and the kustomize that it
// calls, in one binary.
//
// It becomes the part by whose name it is called. Called by its own name, it prints these names, as tools/kubernetes
// does. The parts link nearly the same packages, so one binary takes a third of the time and of the space.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	controller "github.com/argoproj/argo-cd/v3/cmd/argocd-application-controller/commands"
	reposerver "github.com/argoproj/argo-cd/v3/cmd/argocd-repo-server/commands"
	server "github.com/argoproj/argo-cd/v3/cmd/argocd-server/commands"
	"github.com/spf13/cobra"
	kustomize "sigs.k8s.io/kustomize/kustomize/v5/commands"
)

var commands = map[string]func() *cobra.Command{
	"argocd-application-controller": controller.NewCommand,
	"argocd-repo-server":            reposerver.NewCommand,
	"argocd-server":                 server.NewCommand,
	"kustomize":                     kustomize.NewDefaultCommand,
}

func main() {
	if newCommand, ok := commands[filepath.Base(os.Args[0])]; ok {
		if newCommand().Execute() != nil {
			os.Exit(1)
		}
		return
	}
	names := make([]string, 0, len(commands))
	for name := range commands {
		names = append(names, name)
	}
	sort.Strings(names)
	fmt.Println(strings.Join(names, "\n"))
}
