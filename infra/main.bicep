targetScope = 'subscription'

@minLength(1)
@maxLength(40)
@description('Name of the environment; the resource names are derived from it.')
param environmentName string

@minLength(1)
@description('Region of every resource, so also of all data at rest.')
param location string

@description('The deployment file to run, relative to the app folder.')
param deploymentFile string = 'config/deployment.toml'

@allowed(['Standard_LRS', 'Standard_ZRS'])
@description('Copies of the data, all within the region; a second region would hold copies that the purge does not reach.')
param dataRedundancy string = 'Standard_ZRS'

@description('When the purge runs: six fields, seconds first, UTC.')
param purgeSchedule string = '0 5 * * * *'

@description('When fine-tuning jobs go on, likewise.')
param fineTuneSchedule string = '*/15 * * * * *'

@description('When abuse monitoring runs, likewise.')
param abuseSchedule string = '0 */5 * * * *'

@minValue(1)
@maxValue(1000)
@description('Requests that one instance serves at a time. Set explicitly because the default for Python is low.')
param requestsPerInstance int = 16

@minValue(0)
@maxValue(20)
@description('Instances that are kept warm for HTTP; 0 costs nothing at rest and starts cold.')
param alwaysReadyInstances int = 0

@minValue(1)
@maxValue(1000)
param maximumInstances int = 40

@allowed([2048, 4096])
param instanceMemoryMB int = 2048

@description('An existing Azure AI Content Safety resource that the app may ask; empty for none.')
param contentSafetyName string = ''

@description('The resource group it is in, of the same subscription.')
param contentSafetyGroup string = 'rg-${environmentName}'

var token = toLower(uniqueString(subscription().id, environmentName, location))
var tags = {
  'azd-env-name': environmentName
}

resource group 'Microsoft.Resources/resourceGroups@2024-03-01' = {
  name: 'rg-${environmentName}'
  location: location
  tags: tags
}

module identity 'modules/identity.bicep' = {
  name: 'identity'
  scope: group
  params: {
    name: 'id-${token}'
    location: location
    tags: tags
  }
}

module monitoring 'modules/monitoring.bicep' = {
  name: 'monitoring'
  scope: group
  params: {
    name: token
    location: location
    tags: tags
    principalId: identity.outputs.principalId
  }
}

module hostStorage 'modules/host-storage.bicep' = {
  name: 'host-storage'
  scope: group
  params: {
    name: 'st${token}host'
    location: location
    tags: tags
    principalId: identity.outputs.principalId
  }
}

module dataStorage 'modules/data-storage.bicep' = {
  name: 'data-storage'
  scope: group
  params: {
    name: 'st${token}data'
    redundancy: dataRedundancy
    location: location
    tags: tags
    principalId: identity.outputs.principalId
  }
}

module keyVault 'modules/key-vault.bicep' = {
  name: 'key-vault'
  scope: group
  params: {
    name: 'kv-${token}'
    location: location
    tags: tags
    principalId: identity.outputs.principalId
    workspaceId: monitoring.outputs.workspaceId
  }
}

module contentSafety 'modules/content-safety.bicep' = if (contentSafetyName != '') {
  name: 'content-safety'
  scope: resourceGroup(contentSafetyGroup)
  params: {
    name: contentSafetyName
    principalId: identity.outputs.principalId
  }
}

module app 'modules/app.bicep' = {
  name: 'app'
  scope: group
  params: {
    name: 'func-${token}'
    location: location
    tags: tags
    identityId: identity.outputs.id
    identityClientId: identity.outputs.clientId
    deploymentContainerUri: hostStorage.outputs.deploymentContainerUri
    hostBlobUri: hostStorage.outputs.blobUri
    dataBlobUri: dataStorage.outputs.blobUri
    keyVaultUri: keyVault.outputs.uri
    applicationInsightsConnectionString: monitoring.outputs.connectionString
    deploymentFile: deploymentFile
    purgeSchedule: purgeSchedule
    fineTuneSchedule: fineTuneSchedule
    abuseSchedule: abuseSchedule
    requestsPerInstance: requestsPerInstance
    alwaysReadyInstances: alwaysReadyInstances
    maximumInstances: maximumInstances
    instanceMemoryMB: instanceMemoryMB
  }
}

output AZURE_LOCATION string = location
output SERVICE_API_NAME string = app.outputs.name
output SERVICE_API_URI string = app.outputs.uri
